# What a container reads from its volumes, by every documented path. Windows PowerShell 5.1. Observes, never compares;
# every fact stands alone. ROLE: write (the init container), read, tidy (takes away what the run left on the host);
# a fact of another role is null. NONCE, EMPTY_DIR_MARKER, HOST_PATH_MARKER: chosen by the suite.

$facts = [ordered]@{}
$volumes = "hpc-conformance\$env:NONCE"
$account = 'var\run\secrets\kubernetes.io\serviceaccount'

# What the block finds, or why nobody could look.
function Get-Found([scriptblock] $collect) {
    try { & $collect }
    catch {
        $cause = $_.Exception.GetBaseException()
        [ordered]@{ error = $cause.Message; type = $cause.GetType().FullName }
    }
}

function Fact([string] $name, [string] $role, [scriptblock] $collect) {
    $facts[$name] = $null
    if ($env:ROLE -eq $role) { $facts[$name] = Get-Found $collect }
}

# Whatever finds nothing is an explicit null: ConvertTo-Json of 5.1 prints an empty pipeline as {}.
function Get-BelowMountPoint([string] $path) {
    if ($env:CONTAINER_SANDBOX_MOUNT_POINT) { [IO.Path]::Combine($env:CONTAINER_SANDBOX_MOUNT_POINT, $path) } else { $null }
}

# What Windows says where a path leads to no file: no file, folder or drive of the name (2, 3, 15), access denied (5), a
# name that is none (123, 161, 206, 267), a link that is not to be followed, leads nowhere or is none (448, 1920, 1921,
# 4390 to 4393).
$noFile = 2, 3, 5, 15, 123, 161, 206, 267, 448, 1920, 1921, 4390, 4391, 4392, 4393

# A file's text. That Windows finds or opens no file there is data, as its number in round brackets. Any other number is
# no mount's fault, and nobody could look: a device that is not ready (21), a file in use (32, 33, 170, 1224), kept away
# by a scanner (225) or about to be deleted (303), a broken disk (1117, 1392), a machine exhausted (1450, 1455).
function Read-File([string] $path) {
    if (-not $path) { return '(variable not set)' }
    try { [IO.File]::ReadAllText($path) }
    catch {
        $cause = $_.Exception.GetBaseException()
        if ($cause -isnot [IO.IOException] -and $cause -isnot [UnauthorizedAccessException]) { throw }
        # 0x8007 before a number: it is Windows' own.
        $number = $cause.HResult -band 0xffff
        if ('{0:x8}' -f $cause.HResult -notlike '8007*' -or $noFile -notcontains $number) { throw }
        "(win32 $number)"
    }
}

# {0} in the template stands for the kind of volume.
function Read-Markers([string] $template) {
    $markers = [ordered]@{}
    foreach ($kind in 'empty-dir', 'host-path', 'config-map', 'secret', 'downward-api', 'projected') {
        $markers[$kind] = Get-Found { Read-File $template.Replace('{0}', $kind) }
    }
    $markers
}

# A token is never printed: its digest says that it was read, and which one; its claims, whose it is.
function Read-Token([string] $path) {
    $text = Read-File $path
    if ($text.StartsWith('(')) { return $text }
    try {
        $null, $payload, $null = $text.Split('.')
        $payload = $payload.Replace('-', '+').Replace('_', '/')
        $bytes = [Convert]::FromBase64String($payload.PadRight($payload.Length + (4 - $payload.Length % 4) % 4, '='))
        $claims = ConvertFrom-Json -InputObject ([Text.Encoding]::UTF8.GetString($bytes))
    }
    catch { return '(not a token)' }
    $sha = New-Object Security.Cryptography.SHA256CryptoServiceProvider
    $digest = $sha.ComputeHash([Text.Encoding]::UTF8.GetBytes($text))
    [ordered]@{
        sha256 = [BitConverter]::ToString($digest).Replace('-', '').ToLowerInvariant()
        podUid = $claims.'kubernetes.io'.pod.uid
    }
}

# Into the first folder that is there. Returns it, or null.
function Write-Marker([string[]] $folders, [string] $text) {
    foreach ($folder in $folders) {
        if ($folder -and [IO.Directory]::Exists($folder)) {
            [IO.File]::WriteAllText([IO.Path]::Combine($folder, 'marker'), $text)
            return $folder
        }
    }
    $null
}

# Only what is empty, or empty but for our marker.
function Remove-Folder([string] $folder) {
    if (-not [IO.Directory]::Exists($folder)) { return 'absent' }
    try {
        $marker = [IO.Path]::Combine($folder, 'marker')
        if ([IO.File]::Exists($marker)) { [IO.File]::Delete($marker) }
        [IO.Directory]::Delete($folder)
        'removed'
    }
    catch { 'left: ' + $_.Exception.GetBaseException().Message }
}

# By whichever path is there, so that a fault of one path does not spoil the others.
Fact 'written' 'write' {
    [ordered]@{
        'empty-dir' = Write-Marker "C:\$volumes\empty-dir", (Get-BelowMountPoint "$volumes\empty-dir"), ".\$volumes\empty-dir" $env:EMPTY_DIR_MARKER
        'host-path' = Write-Marker "C:\hpc-conformance-$env:NONCE" $env:HOST_PATH_MARKER
    }
}

Fact 'sandboxMountPoint' 'read' {
    [ordered]@{
        value       = $env:CONTAINER_SANDBOX_MOUNT_POINT
        isDirectory = [IO.Directory]::Exists($env:CONTAINER_SANDBOX_MOUNT_POINT)
    }
}

Fact 'workingDirectory' 'read' { [Environment]::CurrentDirectory }

Fact 'belowSandboxMountPoint' 'read' { Read-Markers (Get-BelowMountPoint "$volumes\{0}\marker") }

Fact 'relativePath' 'read' { Read-Markers ".\$volumes\{0}\marker" }

Fact 'mountPathWithDrive' 'read' { Read-Markers "C:\$volumes\{0}\marker" }

Fact 'mountPathWithSlashes' 'read' { Read-Markers "/hpc-conformance-slashes/$env:NONCE/{0}/marker" }

Fact 'serviceAccount' 'read' {
    [ordered]@{
        relativePath           = Get-Found { Read-Token ".\$account\token" }
        belowSandboxMountPoint = Get-Found { Read-Token (Get-BelowMountPoint "$account\token") }
        mountPathWithDrive     = Get-Found { Read-Token "c:\$account\token" }
        mountPathWithSlashes   = Get-Found { Read-Token '/var/run/secrets/kubernetes.io/serviceaccount/token' }
    }
}

# Each certificate that stands in a text.
function Read-Certificates([string] $text) {
    [regex]::Matches($text, '-----BEGIN CERTIFICATE-----([^-]+)-----END') | ForEach-Object {
        New-Object Security.Cryptography.X509Certificates.X509Certificate2(, [Convert]::FromBase64String($_.Groups[1].Value))
    }
}

# Trusted: a chain, right name included, that ends at the cluster's own authority, which signs for clients too: its leaf
# must be a server's (1.3.6.1.5.5.7.3.1).
$trust = {
    param($origin, $certificate, $chain, $problems)
    $reached['certificate'] = $true
    $own = New-Object Security.Cryptography.X509Certificates.X509Chain
    $own.ChainPolicy.RevocationMode = 'NoCheck'
    $own.ChainPolicy.VerificationFlags = 'AllowUnknownCertificateAuthority'
    [void] $own.ChainPolicy.ApplicationPolicy.Add((New-Object Security.Cryptography.Oid '1.3.6.1.5.5.7.3.1'))
    foreach ($authority in $authorities) { [void] $own.ChainPolicy.ExtraStore.Add($authority) }
    foreach ($element in $chain.ChainElements) { [void] $own.ChainPolicy.ExtraStore.Add($element.Certificate) }
    $leaf = New-Object Security.Cryptography.X509Certificates.X509Certificate2($certificate)
    $built = $own.Build($leaf)
    $last = $own.ChainElements[$own.ChainElements.Count - 1].Certificate.Thumbprint
    $named = -not ($problems -band [Net.Security.SslPolicyErrors]::RemoteCertificateNameMismatch)
    $built -and $named -and (@($authorities | ForEach-Object { $_.Thumbprint }) -contains $last)
}

# What a server answers to $request, over the versions of TLS given as the number of SslProtocols. The token is in it: as a
# parameter it could be logged.
function Send-Request([string] $server, [int] $port, [string] $name, [int] $versions) {
    $client = New-Object Net.Sockets.TcpClient($server, $port)
    try {
        $client.ReceiveTimeout = 20000
        $callback = [Net.Security.RemoteCertificateValidationCallback] $trust
        $tls = New-Object Net.Security.SslStream($client.GetStream(), $false, $callback)
        $tls.AuthenticateAsClient($name, $null, [Security.Authentication.SslProtocols] $versions, $false)
        $bytes = [Text.Encoding]::ASCII.GetBytes($request)
        $tls.Write($bytes, 0, $bytes.Length)
        (New-Object IO.StreamReader($tls)).ReadToEnd()
    }
    finally { $client.Close() }
}

# The system's own choice of versions (0) first. A .NET that takes that for an old or a wrong one gets 1.3 and 1.2 by
# their numbers (15360), and one that knows no 1.3 gets 1.2 (3072). Once a certificate came, the version was no trouble.
function Send-Negotiated([string] $server, [int] $port, [string] $name) {
    foreach ($versions in 0, 15360, 3072) {
        $reached = @{}
        try { return Send-Request $server $port $name $versions }
        catch {
            $cause = $_.Exception.GetBaseException()
            if ($reached['certificate'] -or $cause -is [Net.Sockets.SocketException] -or $versions -eq 3072) { throw }
        }
    }
}

# Whom the API server takes the bearer of the token for, asked at the service's address and, where that gives no answer,
# at the one that the suite itself uses; `failed` has what was tried in vain. No token anywhere: code null.
Fact 'review' 'read' {
    $folder = ".\$account", (Get-BelowMountPoint $account), "c:\$account" |
        Where-Object { $_ -and [IO.File]::Exists([IO.Path]::Combine($_, 'token')) } |
        Select-Object -First 1
    if (-not $folder) { return [ordered]@{ code = $null; userName = $null; podName = $null; podUid = $null; failed = @() } }

    $authorities = @(Read-Certificates ([IO.File]::ReadAllText([IO.Path]::Combine($folder, 'ca.crt'))))
    $body = '{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'
    $service = 'kubernetes.default.svc'
    $answer = $null
    $failed = New-Object Collections.Generic.List[string]
    foreach ($server in @($env:KUBERNETES_SERVICE_HOST, $env:KUBERNETES_SERVICE_PORT), @($env:API_HOST, $env:API_PORT)) {
        if ($answer -or -not $server[0]) { continue }
        # A server that is told from others by its name is asked for by it; certificates for bare addresses are rare.
        $address = $null
        $name = $server[0]
        if ([Net.IPAddress]::TryParse($name, [ref] $address)) { $name = $service }
        # HTTP/1.0: the answer comes in one piece and ends with the connection.
        $request = @(
            'POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.0'
            'Host: ' + $name
            'Authorization: Bearer ' + [IO.File]::ReadAllText([IO.Path]::Combine($folder, 'token'))
            'Content-Type: application/json'
            'Accept: application/json'
            'Content-Length: ' + $body.Length
            ''
            $body
        ) -join "`r`n"
        try {
            $answer = Send-Negotiated $server[0] $server[1] $name
            if (-not $answer) { throw 'it said nothing' }
        }
        catch { $failed.Add($server[0] + ' port ' + $server[1] + ': ' + $_.Exception.GetBaseException().Message) }
    }
    if (-not $answer) { throw ('no API server answered. ' + ($failed.ToArray() -join '; ')) }

    $head, $json = $answer -split "`r`n`r`n", 2
    $user = (ConvertFrom-Json -InputObject $json).status.userInfo
    [ordered]@{
        code     = [int] $head.Split(' ')[1]
        userName = $user.username
        podName  = @($user.extra.'authentication.kubernetes.io/pod-name')[0]
        podUid   = @($user.extra.'authentication.kubernetes.io/pod-uid')[0]
        failed   = $failed.ToArray()
    }
}

Fact 'removed' 'tidy' {
    $removed = [ordered]@{}
    foreach ($top in 'C:\hpc-conformance', 'C:\hpc-conformance-slashes') {
        $removed["$top\$env:NONCE"] = Remove-Folder "$top\$env:NONCE"
        $removed[$top] = Remove-Folder $top
    }
    $removed["C:\hpc-conformance-$env:NONCE"] = Remove-Folder "C:\hpc-conformance-$env:NONCE"
    $removed
}

# The runtime's own: which of its folders stand on the host. Nothing is deleted.
Fact 'residue' 'tidy' {
    $residue = [ordered]@{}
    foreach ($folder in 'C:\C', 'C:\hpc', 'C:\dev', 'C:\var\run\secrets\kubernetes.io', "C:\$account") {
        $residue[$folder] = [IO.Directory]::Exists($folder)
    }
    $residue
}

# One line, ASCII only: the console's code page must not matter.
$json = ConvertTo-Json -InputObject $facts -Depth 8 -Compress
$json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
[Console]::Out.WriteLine('<<<observation ' + $json + ' observation>>>')
