"""One machine of a mesh: observes its host, decides with `kubespan.core`, changes only what differs."""
