"""Labelled data sets: a recipe says what to make; they are generated, filtered, exported and checked.

`recipe.py` what to make -> `generator.py` images and masks, item by item -> `layout.py` the folder that is written and
read -> `views.py` choices by scores -> `exports/` other formats; `checking.py` looks at what is there.
"""
