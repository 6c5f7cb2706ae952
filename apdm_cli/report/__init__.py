"""Scores → comparison → table, contact sheet and report.html."""
