"""What `xnowcast.train` is made of: settings, samples, the loop, checkpoints and the run folder."""
