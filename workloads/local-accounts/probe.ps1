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

function Get-Users { Get-Whole { Get-LocalUser } '-500' }

# Who may log on at this machine, and who may not, as SIDs: what secedit names by its name is left out.
function Get-Right([string] $text, [string] $right) {
    $line = [regex]::Match($text, '(?m)^' + $right + ' *= *(.*)$').Groups[1].Value
    foreach ($found in [regex]::Matches($line, '\*(S-1-[0-9-]+)')) { $found.Groups[1].Value }
}

Fact 'logOnRights' {
    if ($env:TASK -ne 'make') { return $null }
    $folder = 'C:\hpc-conformance-' + $env:LOCAL_GROUP.Substring(4)
    $file = [IO.Path]::Combine($folder, 'rights.inf')
    [IO.Directory]::CreateDirectory($folder) | Out-Null
    try {
        secedit.exe /export /mergedpolicy /areas USER_RIGHTS /cfg $file /log "$file.log" /quiet | Out-Null
        $text = [IO.File]::ReadAllText($file)
    }
    finally { [IO.Directory]::Delete($folder, $true) }
    if (-not $text.Contains('[Privilege Rights]')) { throw "secedit.exe ended with $LASTEXITCODE, and gave no rights" }
    [ordered]@{
        allowed = @(Get-Right $text 'SeInteractiveLogonRight')
        denied  = @(Get-Right $text 'SeDenyInteractiveLogonRight')
    }
}

# The SIDs of all local users before anything is made, and before anything is removed.
Fact 'localUsers' { if ($env:TASK) { Get-Users | ForEach-Object { $_.SID.Value } | Sort-Object } } -List

# What it prints is translated, but for the number of an error.
Fact 'group' {
    if (-not $env:TASK) { return $null }
    $ErrorActionPreference = 'Continue'
    $option = if ($env:TASK -eq 'make') { '/add' } else { '/delete' }
    $said = [string] (net.exe localgroup $env:LOCAL_GROUP $option 2>&1)
    $exitCode = $LASTEXITCODE
    $ErrorActionPreference = 'Stop'
    $numbers = [regex]::Matches($said, '(?<![\w-])[0-9]{1,5}(?![\w-])')
    [ordered]@{
        exitCode = $exitCode
        number   = if ($exitCode -and $numbers.Count) { [int] $numbers[$numbers.Count - 1].Value } else { $null }
        sid      = Sid (Get-Whole { Get-LocalGroup } '-544' | Where-Object { $_.Name -eq $env:LOCAL_GROUP })
    }
}

Fact 'user' {
    if ($env:TASK -eq 'make') {
        $random = New-Object byte[] 24
        [Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($random)
        # No cmdlet is given it as a text: module logging writes down what cmdlets are given.
        $password = New-Object Security.SecureString
        foreach ($character in ('aA1!' + [Convert]::ToBase64String($random)).ToCharArray()) { $password.AppendChar($character) }
        # Should nobody come to remove it, it is of no use after a day.
        New-LocalUser -Name $env:LOCAL_USER -Password $password -AccountExpires (Get-Date).AddDays(1) | Out-Null
    }
    if ($env:TASK -eq 'remove') {
        Get-Users | Where-Object { $_.Name -eq $env:LOCAL_USER } | Remove-LocalUser
    }
    if ($env:TASK) {
        [ordered]@{ sid = Sid (Get-Users | Where-Object { $_.Name -eq $env:LOCAL_USER }) }
    }
    else { $null }
}

# One line, ASCII only: the console's code page must not matter.
$json = ConvertTo-Json -InputObject $facts -Depth 8 -Compress
$json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
[Console]::Out.WriteLine('<<<observation ' + $json + ' observation>>>')
