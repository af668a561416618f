"""The models, one short file each, to start your own from. The recurrent layer is an argument."""
