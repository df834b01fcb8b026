"""`twinline verify`: a workload that shows whether a server keeps its promises."""
