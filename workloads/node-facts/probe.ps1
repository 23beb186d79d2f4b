# What this node is made of. Windows PowerShell 5.1. Observes, never compares; every fact stands alone.

$facts = [ordered]@{}

function Fact([string] $name, [scriptblock] $collect) {
    try { $facts[$name] = & $collect }
    catch {
        $cause = $_.Exception.GetBaseException()
        $facts[$name] = [ordered]@{ error = $cause.Message; type = $cause.GetType().FullName }
    }
}

# 5.1 makes null of a property that cannot be read, and 0 of null.
function Known($value) {
    if ($null -eq $value) { throw 'Windows PowerShell gave null where there must be a value' }
    $value
}

# The binary that runs, wherever it was installed.
function Get-ContainerdPath { (Get-Process -Name containerd -ErrorAction Stop | Select-Object -First 1).Path }

# containerd takes the shim that PATH leads to, and the one beside itself only where there is none. One runs, for this very
# pod; the newest, because older pods may still have the one that was there before.
function Get-ShimPath {
    $running = Get-Process -Name containerd-shim-runhcs-v1 -ErrorAction SilentlyContinue | Sort-Object StartTime -Descending
    $path = $running | ForEach-Object { $_.Path } | Where-Object { $_ } | Select-Object -First 1
    if ($path) { return $path }
    [IO.Path]::Combine([IO.Path]::GetDirectoryName((Get-ContainerdPath)), 'containerd-shim-runhcs-v1.exe')
}

function Get-Binary([string] $path) {
    $file = [IO.File]::OpenRead($path)
    try {
        # The provider that a machine in FIPS mode allows.
        $digest = (New-Object Security.Cryptography.SHA256CryptoServiceProvider).ComputeHash($file)
    }
    finally { $file.Close() }
    [ordered]@{
        path        = $path
        sha256      = [BitConverter]::ToString($digest).Replace('-', '').ToLowerInvariant()
        fileVersion = [Diagnostics.FileVersionInfo]::GetVersionInfo($path).FileVersion
    }
}

Fact 'windows' {
    $key = 'HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion'
    [ordered]@{
        build   = [int] (Known ([Microsoft.Win32.Registry]::GetValue($key, 'CurrentBuildNumber', $null)))
        ubr     = [int] (Known ([Microsoft.Win32.Registry]::GetValue($key, 'UBR', $null)))
        product = [Microsoft.Win32.Registry]::GetValue($key, 'ProductName', $null)
        edition = [Microsoft.Win32.Registry]::GetValue($key, 'EditionID', $null)
    }
}

Fact 'bindFilter' { [IO.File]::Exists([IO.Path]::Combine([Environment]::SystemDirectory, 'bindfltapi.dll')) }

Fact 'processors' { [Environment]::ProcessorCount }

Fact 'containerd' { Get-Binary (Get-ContainerdPath) }

Fact 'containerdVersion' { (& (Get-ContainerdPath) --version) -join "`n" }

Fact 'shim' { Get-Binary (Get-ShimPath) }

Fact 'shimVersion' { (& (Get-ShimPath) --version) -join "`n" }

# One line, ASCII only: the console's code page must not matter.
$json = ConvertTo-Json -InputObject $facts -Depth 8 -Compress
$json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
[Console]::Out.WriteLine('<<<observation ' + $json + ' observation>>>')
