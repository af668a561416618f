"""What bench.py, compare.py, plot.py and table.py are made of; bench/README.md describes the method."""
