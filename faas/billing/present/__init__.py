"""Statements as people, spreadsheets and programs want them: one function per format, all of them pure."""
