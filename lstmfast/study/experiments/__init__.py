"""One file for each experiment; each ends in EXPERIMENT (lstmfast/study/experiment.py)."""
