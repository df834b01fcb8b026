"""`twinline verify`: a workload against a server, its history, and the verdict.

``command`` runs the ``workload``, whose ``accounts`` send and receive ``messages``; the history is
judged by `twinline.stores.conformance.history`.
"""
