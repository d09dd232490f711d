"""Drawings that need nothing but a browser: axes, charts, tables, and the page that they stand in."""
