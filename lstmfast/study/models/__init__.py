"""The models of the study, one short file each, to start your own from."""
