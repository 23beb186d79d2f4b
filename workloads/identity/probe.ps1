# Whom this process runs as. Windows PowerShell 5.1. Observes, never compares; every fact stands alone.
# STAY: stay alive after printing, as a DaemonSet's container must.
# Works for an account without a profile: no compiler, no TEMP, no module but Windows PowerShell's own.

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

# 5.1 makes null of a property that cannot be read: where Windows always has a value, null is an error.
function Known($value) {
    if ($null -eq $value) { throw 'Windows PowerShell gave null where there must be a value' }
    $value
}

Fact 'name' { Known ([Security.Principal.WindowsIdentity]::GetCurrent().Name) }

Fact 'sid' { Known ([Security.Principal.WindowsIdentity]::GetCurrent().User.Value) }

Fact 'groups' {
    Known ([Security.Principal.WindowsIdentity]::GetCurrent().Groups) | ForEach-Object { Known $_.Value } | Sort-Object
} -List

Fact 'isAdministrator' {
    $me = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
    Known ($me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator))
}

Fact 'hostName' { Known ([Net.Dns]::GetHostName()) }

# One line, ASCII only: the console's code page must not matter.
$json = ConvertTo-Json -InputObject $facts -Depth 8 -Compress
$json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
[Console]::Out.WriteLine('<<<observation ' + $json + ' observation>>>')

if ($env:STAY) { Start-Sleep -Seconds 86400 }
