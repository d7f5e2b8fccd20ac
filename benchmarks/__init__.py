"""AdaCache against what a user could pick instead: `make bench`, or `python -m benchmarks.gpu` on a GPU."""
