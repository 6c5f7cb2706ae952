// The numbers in face_api_numbers.json, as face-api itself computes them: run with node where
// @vladmandic/face-api 1.7.15, @tensorflow/tfjs and @tensorflow/tfjs-backend-wasm 4.22.0 are installed.
//   node face_api_numbers.js MODEL_FOLDER NAME,FILE,WIDTH,HEIGHT ...
// Each FILE holds the raw bytes of an RGB picture, row by row.
const fs = require("fs");
const wasm = require("@tensorflow/tfjs-backend-wasm");
const faceapi = require("@vladmandic/face-api/dist/face-api.node-wasm.js");

(async () => {
  wasm.setWasmPaths(require.resolve("@tensorflow/tfjs-backend-wasm").replace(/dist.*/, "dist/"));
  await faceapi.tf.setBackend("wasm");
  await faceapi.tf.ready();
  const [folder, ...pictures] = process.argv.slice(2);
  await faceapi.nets.ssdMobilenetv1.loadFromDisk(folder);
  await faceapi.nets.faceLandmark68Net.loadFromDisk(folder);
  await faceapi.nets.faceRecognitionNet.loadFromDisk(folder);
  const numbers = {};
  for (const picture of pictures) {
    const [name, file, width, height] = picture.split(",");
    const pixels = new Float32Array(fs.readFileSync(file));
    const tensor = faceapi.tf.tensor3d(pixels, [Number(height), Number(width), 3]);
    const found = await faceapi.detectAllFaces(tensor).withFaceLandmarks().withFaceDescriptors();
    numbers[name] = found.map((face) => {
      const { x, y, width, height } = face.detection.box;
      const crop = face.landmarks.align(null, { useDlibAlignment: true });
      return {
        score: face.detection.score,
        box: [x, y, x + width, y + height],
        landmarks: face.landmarks.positions.map((point) => [point.x, point.y]),
        crop: [crop.x, crop.y, crop.width],
        descriptor: Array.from(face.descriptor),
      };
    });
  }
  console.log(JSON.stringify(numbers, (_, v) => (typeof v === "number" ? Number(v.toFixed(5)) : v)));
})();
