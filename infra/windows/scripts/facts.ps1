# What this machine is, and what is already on it. Changes nothing. server and port: towards whom it needs an address.
function Get-AddressToward([string] $server, [int] $port) {
    # Of a UDP socket, so that nothing is sent.
    $socket = New-Object Net.Sockets.Socket([Net.Sockets.AddressFamily]::InterNetwork, [Net.Sockets.SocketType]::Dgram, [Net.Sockets.ProtocolType]::Udp)
    try {
        $socket.Connect($server, $port)
        $socket.LocalEndPoint.Address.ToString()
    }
    finally { $socket.Close() }
}

# What kubeadm reset empties, whosever it is.
$emptied = 'C:\etc\kubernetes\manifests', 'C:\etc\kubernetes\pki', 'C:\var\lib\kubelet'

Invoke-Alone {
    $key = 'HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion'
    $user = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
    $administrator = $user.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
    # Only an administrator may ask.
    $feature = if ($administrator) { [string] (Get-WindowsOptionalFeature -Online -FeatureName Containers).State } else { $null }
    [ordered]@{
        build         = [int] [Microsoft.Win32.Registry]::GetValue($key, 'CurrentBuildNumber', 0)
        ubr           = [int] [Microsoft.Win32.Registry]::GetValue($key, 'UBR', 0)
        product       = [Microsoft.Win32.Registry]::GetValue($key, 'ProductName', $null)
        edition       = [Microsoft.Win32.Registry]::GetValue($key, 'EditionID', $null)
        installation  = [Microsoft.Win32.Registry]::GetValue($key, 'InstallationType', $null)
        administrator = $administrator
        hostName      = [Net.Dns]::GetHostName()
        feature       = $feature
        containerd    = Get-ServiceState 'containerd'
        kubelet       = Get-ServiceState 'kubelet'
        joined        = [IO.File]::Exists('C:\etc\kubernetes\kubelet.conf')
        occupied      = @($emptied | Where-Object { [IO.Directory]::Exists($_) -and [IO.Directory]::GetFileSystemEntries($_).Length })
        address       = if ($given.server) { Get-AddressToward $given.server $given.port } else { $null }
    }
}
