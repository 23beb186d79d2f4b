# Who am I; and, where $env:TASK says so, makes or removes a local group and a local user, and lists the local users.
# Windows PowerShell 5.1. Observes, never compares. Every fact stands alone.

$ErrorActionPreference = 'Stop'
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

# Whatever finds nothing is an explicit null: ConvertTo-Json of 5.1 prints an empty pipeline as {}.
function Sid($account) {
    if ($account) { $account.SID.Value } else { $null }
}

Fact 'name' { [Security.Principal.WindowsIdentity]::GetCurrent().Name }

Fact 'sid' { [Security.Principal.WindowsIdentity]::GetCurrent().User.Value }

Fact 'groups' { [Security.Principal.WindowsIdentity]::GetCurrent().Groups | ForEach-Object { $_.Value } | Sort-Object } -List

# The SIDs of all local users before anything is made, and before anything is removed.
Fact 'localUsers' { if ($env:TASK) { Get-LocalUser | ForEach-Object { $_.SID.Value } | Sort-Object } } -List

Fact 'group' {
    if ($env:TASK -eq 'make') { net.exe localgroup $env:LOCAL_GROUP /add | Out-Null }
    if ($env:TASK -eq 'remove') { net.exe localgroup $env:LOCAL_GROUP /delete | Out-Null }
    if ($env:TASK) {
        [ordered]@{
            exitCode = $LASTEXITCODE
            sid      = Sid (Get-LocalGroup | Where-Object { $_.Name -eq $env:LOCAL_GROUP })
        }
    }
    else { $null }
}

Fact 'user' {
    if ($env:TASK -eq 'make') {
        $random = New-Object byte[] 24
        [Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($random)
        $password = ConvertTo-SecureString ('aA1!' + [Convert]::ToBase64String($random)) -AsPlainText -Force
        # Should nobody come to remove it, it is of no use after a day.
        New-LocalUser -Name $env:LOCAL_USER -Password $password -AccountExpires (Get-Date).AddDays(1) | Out-Null
    }
    if ($env:TASK -eq 'remove') {
        Get-LocalUser | Where-Object { $_.Name -eq $env:LOCAL_USER } | Remove-LocalUser
    }
    if ($env:TASK) {
        [ordered]@{ sid = Sid (Get-LocalUser | Where-Object { $_.Name -eq $env:LOCAL_USER }) }
    }
    else { $null }
}

# One line, ASCII only: the console's code page must not matter.
$json = ConvertTo-Json -InputObject $facts -Depth 8 -Compress
$json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
[Console]::Out.WriteLine('<<<observation ' + $json + ' observation>>>')
