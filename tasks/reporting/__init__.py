"""The report of a run, its pictures and its templates."""
