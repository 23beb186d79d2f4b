# What network this process is in. Windows PowerShell 5.1. Observes, never compares; every fact stands alone.
# ROLE: listen, or tidy (takes the firewall's rule away); a fact of another role is null.
# HOST_IP: the node's address. NONCE: what the listener answers; the rule is named after it. LISTENER_PORT: the port that is
# wanted, 0 for any free one. LISTEN_SECONDS: how long it answers, unless it is stopped before.

$facts = [ordered]@{}
$open = @{}
$rule = "name=hpc-conformance-$env:NONCE"

# -List keeps a list a list, whatever its length.
function Fact([string] $name, [string] $role, [scriptblock] $collect, [switch] $List) {
    $facts[$name] = $null
    if ($env:ROLE -ne $role) { return }
    try {
        $value = & $collect
        if ($List) { $facts[$name] = @($value) } else { $facts[$name] = $value }
    }
    catch {
        $cause = $_.Exception.GetBaseException()
        $facts[$name] = [ordered]@{ error = $cause.Message; type = $cause.GetType().FullName }
    }
}

# 5.1 makes null of a property that cannot be read: where Windows always has a value, null is an error.
function Known($value) {
    if ($null -eq $value) { throw 'Windows PowerShell gave null where there must be a value' }
    $value
}

Fact 'addresses' 'listen' {
    [Net.NetworkInformation.NetworkInterface]::GetAllNetworkInterfaces() |
        ForEach-Object { $_.GetIPProperties().UnicastAddresses } |
        ForEach-Object { $_.Address.ToString() } |
        Sort-Object
} -List

Fact 'hostName' 'listen' { Known ([Net.Dns]::GetHostName()) }

# Cut at 15 characters: for the record only.
Fact 'computerName' 'listen' { $env:COMPUTERNAME }

# Listen on the node's address; the socket error, or null. An address that is not this machine's cannot be bound (10049):
# that is something seen, not a failure to look.
function Start-Listener([int] $port) {
    $listener = New-Object Net.Sockets.TcpListener([Net.IPAddress]::Parse($env:HOST_IP), $port)
    try { $listener.Start() }
    catch {
        $cause = $_.Exception.GetBaseException()
        if ($cause -isnot [Net.Sockets.SocketException]) { throw }
        return $cause.ErrorCode
    }
    $open['listener'] = $listener
    $null
}

# That the port that is wanted is another's says nothing about the address: any free one does as well.
Fact 'listener' 'listen' {
    $wanted, $any = $null, $null
    if ([int] $env:LISTENER_PORT) { $wanted = Start-Listener $env:LISTENER_PORT }
    if (-not $open['listener']) { $any = Start-Listener 0 }
    $port = $null
    if ($open['listener']) { $port = $open['listener'].LocalEndpoint.Port }
    [ordered]@{ address = $env:HOST_IP; port = $port; socketError = $any; wantedPortError = $wanted }
}

# Windows Firewall drops what comes to a port that no rule names. This one is for this address and port alone.
Fact 'firewallRule' 'listen' {
    if (-not $open['listener']) { return $null }
    $port = $open['listener'].LocalEndpoint.Port
    netsh.exe advfirewall firewall add rule $rule dir=in action=allow protocol=TCP "localip=$env:HOST_IP" "localport=$port" | Out-Null
    [ordered]@{ addExitCode = $LASTEXITCODE }
}

# netsh ends with 1 where it finds no rule of the name.
Fact 'removed' 'tidy' {
    netsh.exe advfirewall firewall delete rule $rule | Out-Null
    $deleted = $LASTEXITCODE
    netsh.exe advfirewall firewall show rule $rule | Out-Null
    [ordered]@{ deleteExitCode = $deleted; showExitCode = $LASTEXITCODE }
}

# One line, ASCII only: the console's code page must not matter.
$json = ConvertTo-Json -InputObject $facts -Depth 8 -Compress
$json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
[Console]::Out.WriteLine('<<<observation ' + $json + ' observation>>>')

# Answer whoever asks.
$end = [DateTime]::UtcNow.AddSeconds([int] $env:LISTEN_SECONDS)
while ($open['listener'] -and [DateTime]::UtcNow -lt $end) {
    if (-not $open['listener'].Pending()) {
        Start-Sleep -Milliseconds 50
        continue
    }
    $client = $open['listener'].AcceptTcpClient()
    try {
        $client.ReceiveTimeout = 5000
        $stream = $client.GetStream()
        $reader = New-Object IO.StreamReader($stream)
        while ($reader.ReadLine()) { }
        $head = 'HTTP/1.1 200 OK', 'Content-Type: text/plain', ('Content-Length: ' + $env:NONCE.Length), 'Connection: close', '', ''
        $answer = [Text.Encoding]::ASCII.GetBytes(($head -join "`r`n") + $env:NONCE)
        $stream.Write($answer, 0, $answer.Length)
    }
    catch { [Console]::Out.WriteLine('a connection broke: ' + $_.Exception.GetBaseException().Message) }
    finally { $client.Close() }
}
