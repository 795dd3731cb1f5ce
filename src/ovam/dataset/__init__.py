"""Labelled data sets: a recipe says what to make; they are generated, filtered, exported and checked.

The modules in the order of the work: `recipe.py` reads what to make, `generator.py` makes images and masks item by
item, `layout.py` reads the folder, `views.py` chooses items by scores, and `exports/` writes other formats.
`checking.py` checks a folder.
"""
