"""Runs notebooks in Databricks source format where there is no Databricks, and renders them to HTML with their outputs.

    source.py      the format: a file to cells
    runtime.py     what a cell finds on Databricks: dbutils, display, displayHTML
    outputs.py     what a cell shows: texts, tables, pictures
    execute.py     cells run in order, outputs kept per cell, errors with notebook, cell and line
    page.py        a self-contained page
    __main__.py    `./convoy labs`

It stands beside the notebooks and not in `pipelines`, because a cluster does not need it: there Databricks itself is the runner.
"""
