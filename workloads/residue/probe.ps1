# Takes away what runs that were killed left on this host. Windows PowerShell 5.1. Observes, never compares; every fact
# stands alone. The names end with the hour of their expiry, five hexadecimal digits, and six random ones.
# REAP_BEFORE: what expires before this hour (of the Unix time, decimal) goes.

$facts = [ordered]@{}

# -List keeps a list a list, whatever its length.
function Fact([string] $name, [scriptblock] $collect, [switch] $List) {
    try {
        $value = & $collect
        if ($List) { $facts[$name] = @($value) } else { $facts[$name] = $value }
    }
    catch {
        $cause = $_.Exception.GetBaseException()
        $facts[$name] = [ordered]@{ error = $cause.Message; type = $cause.GetType().FullName }
    }
}

# Of all names that $find gives, those of exactly our shape, and what became of each. $remove returns the exit code of
# what it ran, or 0. What is no longer there was reaped, if by another run.
function Get-Reaped([string] $shape, [scriptblock] $find, [scriptblock] $remove) {
    $ours = & $find | Where-Object { $_ -cmatch "^${shape}[0-9a-f]{11}\z" } | Sort-Object -Unique
    foreach ($name in $ours) {
        $outcome = 'kept'
        if ([Convert]::ToInt64($name.Substring($name.Length - 11, 5), 16) -lt [long] $env:REAP_BEFORE) {
            try { $failure = & $remove $name }
            catch { $failure = $_.FullyQualifiedErrorId }
            $outcome = 'reaped'
            if ($failure -and @(& $find) -ccontains $name) { $outcome = "left: $failure" }
        }
        [ordered]@{ name = $name; outcome = $outcome }
    }
}

# The parents that all runs share, where they are folders: no link is followed. Attributes are -1 where nothing is.
function Get-Parents {
    $kinds = [int] [IO.FileAttributes] 'Directory, ReparsePoint'
    'C:\hpc-conformance', 'C:\hpc-conformance-slashes' | Where-Object {
        ([int] (New-Object IO.DirectoryInfo $_).Attributes -band $kinds) -eq [int] [IO.FileAttributes]::Directory
    }
}

# A link goes, what it leads to stays; Directory.Delete's own recursion stumbles over junctions. What is not there is
# gone already.
function Remove-Tree([string] $path) {
    try {
        $attributes = [IO.File]::GetAttributes($path)
        if (-not ($attributes -band [IO.FileAttributes]::Directory)) { [IO.File]::Delete($path); return }
        if (-not ($attributes -band [IO.FileAttributes]::ReparsePoint)) {
            foreach ($entry in [IO.Directory]::GetFileSystemEntries($path)) { Remove-Tree $entry }
        }
        [IO.Directory]::Delete($path)
    }
    catch [IO.FileNotFoundException], [IO.DirectoryNotFoundException] { }
}

# Get-LocalUser and Get-LocalGroup say nothing of a list that broke off, and fail where an account goes meanwhile. A
# whole list has $witness: the end of a SID that every Windows has.
function Get-Whole([scriptblock] $list, [string] $witness) {
    for ($try = 1; ; $try++) {
        try {
            $found = @(& $list)
            if (-not ($found | Where-Object { ([string] $_.SID.Value).EndsWith($witness) })) {
                throw "the list of accounts is not whole: no SID in it ends with $witness"
            }
            return $found
        }
        catch { if ($try -eq 3) { throw } }
        Start-Sleep -Milliseconds 500
    }
}

Fact 'groups' {
    Get-Reaped 'hpc-' { Get-Whole { Get-LocalGroup -ErrorAction Stop } '-544' | ForEach-Object { $_.Name } } {
        net.exe localgroup $args[0] /delete | Out-Null
        $LASTEXITCODE
    }
} -List

Fact 'users' {
    Get-Reaped 'hpc-user-' { Get-Whole { Get-LocalUser -ErrorAction Stop } '-500' | ForEach-Object { $_.Name } } {
        net.exe user $args[0] /delete | Out-Null
        $LASTEXITCODE
    }
} -List

Fact 'folders' {
    Get-Reaped 'C:\\hpc-conformance(-|\\|-slashes\\)' {
        [IO.Directory]::GetDirectories('C:\')
        Get-Parents | ForEach-Object {
            try { [IO.Directory]::GetDirectories($_) } catch [IO.DirectoryNotFoundException] { }
        }
    } {
        Remove-Tree $args[0]
        0
    }
    # Other runs use them too: one that is not empty stays, for Windows does not delete it.
    foreach ($parent in Get-Parents) {
        try {
            [IO.Directory]::Delete($parent)
            [ordered]@{ name = $parent; outcome = 'reaped' }
        }
        catch { }
    }
} -List

# As the registry has them: netsh translates what it prints.
Fact 'firewallRules' {
    $key = 'SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\FirewallRules'
    $rules = [Microsoft.Win32.Registry]::LocalMachine.OpenSubKey($key)
    # A machine whose firewall was taken out has no rules.
    if (-not $rules) { return }
    Get-Reaped 'hpc-conformance-' {
        foreach ($value in $rules.GetValueNames()) {
            [regex]::Match($rules.GetValue($value), '\|Name=([^|]*)\|').Groups[1].Value
        }
    } {
        netsh.exe advfirewall firewall delete rule "name=$($args[0])" | Out-Null
        $LASTEXITCODE
    }
} -List

# One line, ASCII only: the console's code page must not matter.
$json = ConvertTo-Json -InputObject $facts -Depth 8 -Compress
$json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
[Console]::Out.WriteLine('<<<observation ' + $json + ' observation>>>')
