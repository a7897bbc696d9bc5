"""What can be done with rain: the public functions behind ``ds.nowcast``, each asked once and checked once."""
