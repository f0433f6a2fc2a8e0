"""The report of a run: what it says, its pictures, and the history of accuracies.

May import the records, the settings and the cache's files; knows neither Prefect nor TensorFlow.

    report.py     Report: what a run was told, what it met, how well it does
    templates/    sections.j2 says it once; html.j2 and markdown.j2 write it in either form
    pictures.py   pure functions from numbers to the bytes of a PNG
    history.py    how accurate the runs were, a line of JSON each
"""
