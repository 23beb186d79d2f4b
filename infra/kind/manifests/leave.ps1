# Runs when the pod ends for good: takes the overlay's network from the host, and what kube-proxy put on it.
Get-HnsPolicyList | Remove-HnsPolicyList
Get-HnsNetwork | Where-Object { $_.Name -eq 'flannel.4096' } | Remove-HnsNetwork
