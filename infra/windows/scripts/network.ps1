# The network that flannel makes on the node. Nothing is made here: the entry in the journal is what makes undo take it
# away, whether there is a control plane or not. The connection may break as the virtual switch goes.
Step 'network' {
    [ordered]@{ network = [bool] (Get-HnsNetwork | Where-Object { $_.Name -eq 'flannel.4096' }) }
} {
    [bool] (Read-Journal | Where-Object { $_.step -eq 'network' })
} {
} {
    # kube-proxy's policies on it; those on other networks are not ours.
    $endpoints = @(Get-HnsEndpoint | Where-Object { $_.VirtualNetworkName -eq 'flannel.4096' } | ForEach-Object { $_.ID })
    Get-HnsPolicyList | Where-Object { $_.References -replace '.*/' | Where-Object { $endpoints -contains $_ } } | Remove-HnsPolicyList
    Get-HnsNetwork | Where-Object { $_.Name -eq 'flannel.4096' } | Remove-HnsNetwork
}
