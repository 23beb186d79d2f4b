# The kubelet as a service of Windows, which nobody starts until join makes it start with Windows. command: its command
# line, to which join adds the node's name.
Step 'kubelet-service' {
    [ordered]@{ service = Get-ServiceState 'kubelet' }
} {
    param($now)
    $now.service -and $now.service.command.StartsWith($given.command)
} {
    Set-ServiceState 'kubelet' @{ command = $given.command; start = 'Manual'; running = $false } 'containerd'
} {
    param($before)
    Set-ServiceState 'kubelet' $before.service
}
