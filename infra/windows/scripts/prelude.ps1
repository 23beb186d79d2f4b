# What is sent ahead of every script here. Windows PowerShell 5.1, Server Core.
# $task: check, apply or undo. $given: the parameters, data from JSON. $data: further lines.
#
# A step looks, changes, looks again. Before its first change it writes what it saw into the journal on this machine, so
# that whoever comes later, from wherever, can put it back; undo puts it back, looks, and takes the entry out.
param([string] $task, $given, $data)

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$root = [IO.Path]::Combine($env:ProgramData, 'hostprocess-conformance')
$journal = [IO.Path]::Combine($root, 'journal.json')

# One line, ASCII only: the console's code page must not matter.
function Write-Result($result) {
    $json = ConvertTo-Json -InputObject $result -Depth 8 -Compress
    $json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
    [Console]::Out.WriteLine('<<<step ' + $json + ' step>>>')
}

# Runs the script block alone on this machine: a run that lost its connection may still be at work.
function Invoke-Alone([scriptblock] $body) {
    $mutex = New-Object Threading.Mutex($false, 'Global\hostprocess-conformance')
    try {
        try { $mine = $mutex.WaitOne(600000) }
        catch [Threading.AbandonedMutexException] { $mine = $true }
        if (-not $mine) { throw 'another run is still at work on this machine' }
        try { Write-Result (& $body) }
        finally { $mutex.ReleaseMutex() }
    }
    catch {
        $remedy = $_.Exception.Data['remedy']
        Write-Result ([ordered]@{ error = $_.Exception.GetBaseException().Message; remedy = $remedy })
    }
    finally { $mutex.Close() }
}

function Read-Journal {
    if (-not [IO.File]::Exists($journal)) { return }
    $read = $null
    try { $read = ConvertFrom-Json -InputObject ([IO.File]::ReadAllText($journal)) } catch { }
    if ($null -eq $read -or $read.version -ne 1) {
        $cause = New-Object Exception("the journal $journal is cut, or another version of this program wrote it")
        $cause.Data['remedy'] = 'take the node down with the version that brought it up, or put the machine back by hand and delete the journal'
        throw $cause
    }
    $read.entries
}

# A whole journal or the one before: never half of one, even if the power goes.
function Write-Journal($entries) {
    $text = ConvertTo-Json -InputObject ([ordered]@{ version = 1; entries = @($entries | Where-Object { $_ }) }) -Depth 4 -Compress
    $bytes = [Text.Encoding]::UTF8.GetBytes($text)
    $aside = $journal + '.part'
    $file = New-Object IO.FileStream($aside, [IO.FileMode]::Create, [IO.FileAccess]::Write, [IO.FileShare]::None, 4096, [IO.FileOptions]::WriteThrough)
    try {
        $file.Write($bytes, 0, $bytes.Length)
        $file.Flush($true)
    }
    finally { $file.Close() }
    if ([IO.File]::Exists($journal)) { [IO.File]::Replace($aside, $journal, [NullString]::Value) }
    else { [IO.File]::Move($aside, $journal) }
}

# $look returns what there is; $wanted says whether that will do; $change makes it so; $back makes it what it was.
function Step([string] $name, [scriptblock] $look, [scriptblock] $wanted, [scriptblock] $change, [scriptblock] $back) {
    Invoke-Alone {
        $entries = @(Read-Journal)
        $entry = $entries | Where-Object { $_.step -eq $name }
        $changed = $false
        $state = & $look
        if ($task -eq 'apply' -and -not ($state.feature -like '*Pending') -and -not (& $wanted $state)) {
            if (-not $entry) {
                $before = ConvertTo-Json -InputObject $state -Depth 6 -Compress
                Write-Journal ($entries + @([ordered]@{ step = $name; before = $before }))
            }
            & $change $state | Out-Null
            $changed = $true
            $state = & $look
            if (-not ($state.feature -like '*Pending') -and -not (& $wanted $state)) {
                throw 'it was changed, and is not as wanted: ' + (ConvertTo-Json -InputObject $state -Depth 6 -Compress)
            }
        }
        if ($task -eq 'undo' -and $entry) {
            $changed = $true
            if ((ConvertTo-Json -InputObject $state -Depth 6 -Compress) -cne $entry.before) {
                & $back (ConvertFrom-Json -InputObject $entry.before) | Out-Null
                $state = & $look
            }
            if ((ConvertTo-Json -InputObject $state -Depth 6 -Compress) -ceq $entry.before) {
                Write-Journal ($entries | Where-Object { $_.step -ne $name })
            }
            elseif (-not ($state.feature -like '*Pending')) {
                throw 'it was put back, and is not as it was: ' + (ConvertTo-Json -InputObject $state -Depth 6 -Compress)
            }
        }
        [ordered]@{ step = $name; changed = $changed; rebootNeeded = $state.feature -like '*Pending'; state = $state }
    }
}

# In lower case; null where there is no such file.
function Get-Digest([string] $path) {
    if (-not [IO.File]::Exists($path)) { return $null }
    $file = [IO.File]::OpenRead($path)
    try {
        # The provider that a machine in FIPS mode allows.
        $digest = (New-Object Security.Cryptography.SHA256CryptoServiceProvider).ComputeHash($file)
    }
    finally { $file.Close() }
    [BitConverter]::ToString($digest).Replace('-', '').ToLowerInvariant()
}

function Get-ServiceState([string] $name) {
    $service = Get-CimInstance -ClassName Win32_Service -Filter "Name='$name'"
    if (-not $service) { return $null }
    [ordered]@{
        command     = $service.PathName
        start       = $service.StartMode
        running     = $service.State -eq 'Running'
        environment = [Microsoft.Win32.Registry]::GetValue("HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\$name", 'Environment', $null)
    }
}

# Makes the service what $state says, or takes it away where that is null. One that needs this one is stopped with it.
function Set-ServiceState([string] $name, $state, [string[]] $needs) {
    if (Get-ServiceState $name) { Stop-Service -Name $name -Force -WarningAction SilentlyContinue }
    elseif (-not $state) { return }
    if (-not $state) {
        Get-CimInstance -ClassName Win32_Service -Filter "Name='$name'" | Invoke-CimMethod -MethodName Delete | Out-Null
        # It goes when the last handle to it is closed.
        for ($try = 0; (Get-ServiceState $name) -and $try -lt 60; $try++) { Start-Sleep -Milliseconds 500 }
        return
    }
    if (-not (Get-ServiceState $name)) {
        $more = @{}
        if ($needs) { $more.DependsOn = $needs }
        New-Service -Name $name -BinaryPathName $state.command -StartupType Manual @more | Out-Null
    }
    # WMI says Auto and hears Automatic.
    $wish = @{ PathName = [string] $state.command; StartMode = ([string] $state.start -replace '^Auto$', 'Automatic') }
    $done = Get-CimInstance -ClassName Win32_Service -Filter "Name='$name'" | Invoke-CimMethod -MethodName Change -Arguments $wish
    if ($done.ReturnValue) { throw "the service $name cannot be configured: Win32_Service.Change returned $($done.ReturnValue)" }
    # What it gets besides the machine's environment; an empty list is not the same as none.
    $key = "HKLM:\SYSTEM\CurrentControlSet\Services\$name"
    if ($null -ne $state.environment) {
        New-ItemProperty -Path $key -Name Environment -PropertyType MultiString -Value ([string[]] $state.environment) -Force | Out-Null
    }
    else { Remove-ItemProperty -Path $key -Name Environment -ErrorAction SilentlyContinue }
    if ($state.running) { Start-Service -Name $name -WarningAction SilentlyContinue }
}

# What a program of Windows prints goes nowhere near the result; a code other than 0 is an error with its last lines.
function Invoke-Program([string] $path, [string[]] $arguments) {
    # 5.1 makes an error of each line on standard error; under Stop the first one would end this script.
    $ErrorActionPreference = 'Continue'
    $said = @(& $path $arguments 2>&1 | ForEach-Object { [string] $_ })
    if ($LASTEXITCODE) {
        $tail = ($said | Where-Object { $_.Trim() } | Select-Object -Last 4) -join ' | '
        throw ([IO.Path]::GetFileName($path) + " ended with code ${LASTEXITCODE}: $tail")
    }
    $said -join "`n"
}

# What a program says of itself; null where there is none. One that does not run hinders nobody from taking it away.
function Get-Version([string] $path) {
    if (-not [IO.File]::Exists($path)) { return $null }
    try { Invoke-Program $path @('--version') }
    catch { $_.Exception.Message }
}

# Where the folder above it is missing, File.Delete fails.
function Remove-File([string] $path) {
    if ([IO.File]::Exists($path)) { [IO.File]::Delete($path) }
}

# rd leaves what a link points to alone. Layers of images belong to others: they are taken over first, where it needs that.
function Remove-Folder([string] $path) {
    $ErrorActionPreference = 'Continue'
    for ($try = 0; [IO.Directory]::Exists($path) -and $try -lt 5; $try++) {
        if ($try) { Start-Sleep -Seconds 1 }
        if ($try -ge 3) {
            # takeown.exe would want its answer in the language of Windows.
            icacls.exe $path /setowner '*S-1-5-32-544' /t /c /l /q 2>&1 | Out-Null
            icacls.exe $path /reset /t /c /l /q 2>&1 | Out-Null
        }
        cmd.exe /c rd /s /q $path 2>&1 | Out-Null
    }
    if ([IO.Directory]::Exists($path)) { throw "the folder $path cannot be removed: something in it is in use" }
}
