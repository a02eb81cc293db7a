"""Other servers of the same model, each a process of its own interpreter that speaks one small protocol of lines."""
