"""The paper's benchmarks, made so that two people have the same files, and its tables with our rows beside its own."""
