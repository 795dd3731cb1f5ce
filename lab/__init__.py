"""How the numbers are made: mini and its measures, fits of tokens and their rivals, performance. Not in the wheel.

Imports `ovam`, never the reverse. Nothing is imported here: in a comparison another package is called `ovam` too.
"""
