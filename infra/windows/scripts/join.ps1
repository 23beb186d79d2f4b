# The machine becomes the node that node names. command: the kubelet's command line. The line of data: a kubeconfig with
# the address, the authority and a bootstrap token, which is on the disk only while kubeadm runs, and in no command line.
$kubernetes = [IO.Path]::Combine($root, 'kubernetes')
$kubeadm = [IO.Path]::Combine($kubernetes, 'kubeadm.exe')
$discovery = [IO.Path]::Combine($root, 'discovery.conf')
$conf = 'C:\etc\kubernetes\kubelet.conf', 'C:\etc\kubernetes\bootstrap-kubelet.conf'
$socket = '--cri-socket=npipe:////./pipe/containerd-containerd'
# kubeadm asks the kubelet for its version.
$env:Path = $kubernetes + ';' + $env:Path

function Reset-Node {
    if (-not [IO.File]::Exists($kubeadm)) { return }
    try { Invoke-Program $kubeadm @('reset', '--force', $socket) }
    catch { }
    # What it leaves where containerd does not answer.
    foreach ($file in $conf) { Remove-File $file }
}

Step 'join' {
    $service = Get-ServiceState 'kubelet'
    [ordered]@{
        service = $service
        joined  = [IO.File]::Exists($conf[0])
        begun   = [IO.File]::Exists($conf[1]) -or [IO.File]::Exists($discovery)
    }
} {
    param($now)
    $now.joined -and -not $now.begun -and $now.service.command -eq $given.command -and $now.service.running
} {
    param($now)
    if ($now.joined -and -not $now.begun -and $now.service.command -eq $given.command) {
        Start-Service -Name kubelet -WarningAction SilentlyContinue
        return
    }
    if ($now.joined -or $now.begun) { Reset-Node }
    Set-ServiceState 'kubelet' @{ command = $given.command; start = 'Auto'; running = $false }
    try {
        [IO.File]::WriteAllBytes($discovery, [Convert]::FromBase64String($data[0]))
        $arguments = @('join', '--discovery-file', $discovery, '--node-name', $given.node, $socket)
        Invoke-Program $kubeadm $arguments
    }
    finally { Remove-File $discovery }
    # It is running for kubeadm; after a crash it is started again by nobody.
    Start-Service -Name kubelet -WarningAction SilentlyContinue
} {
    param($before)
    Remove-File $discovery
    if (Get-ServiceState 'kubelet') { Stop-Service -Name kubelet -Force -WarningAction SilentlyContinue }
    Reset-Node
    Set-ServiceState 'kubelet' $before.service
}
