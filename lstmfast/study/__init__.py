"""LSTM against RNN, measured: what is said about the two layers, as experiments that run in minutes (docs/study.md).

    claims.py       what is claimed, and the three verdicts
    experiment.py   what an experiment consists of
    registry.py     the list of experiments
    layers.py       the recurrent layers and their initial weights
    trainer.py      the training loop that all experiments share
    comparison.py   the same steps with torch.nn's layers: do the numbers agree, how much longer do they take
    results.py      what was measured, as JSON, one file for each run
    runner.py       runs what has not been run yet
    plots.py        figures
    report.py       everything on one page
    models/         the models: short files to start your own from
    data/           where the data comes from, and under which licence
    experiments/    one file for each experiment

`import lstmfast` does not import any of it.
"""
