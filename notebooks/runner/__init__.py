"""Run notebooks in Databricks source format without Databricks, and render them to HTML with their outputs.

    source.py      the format: parses a file into cells
    runtime.py     the globals of a cell on Databricks: dbutils, display, displayHTML
    outputs.py     the outputs of a cell: text, tables, images
    execute.py     runs cells in order; outputs per cell, errors with notebook, cell and line
    page.py        a self-contained HTML page
    __main__.py    `./convoy labs`

It is not part of `pipelines`, because a cluster does not need it: there Databricks runs the notebooks.
"""
