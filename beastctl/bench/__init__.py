"""`beast bench`: the same load for any server, measured from the client's side."""
