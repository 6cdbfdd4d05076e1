"""One command a file: parse, wire, print, exit."""
