"""The paper's experiments, a module each: `NAME`'s title, place in the paper and `run`."""
