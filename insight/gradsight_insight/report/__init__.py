"""A report about a job for people: plain data in, one HTML page or one Markdown text out.

Read `data.py` first (what a report knows), then `order.py` (what comes first), `page.py` and `page.html.jinja` (the
page), `curves.py`, `layers.py`, `gain_picture.py`, `category_picture.py` (its pictures) and `markdown.py`.
No files are read but the page's own template, nothing is asked of a clock, a store or a service. The pictures need
matplotlib: importing this package does not load it, making a page does.
"""
