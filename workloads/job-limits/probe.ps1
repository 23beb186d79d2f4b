# What the job object of this container limits, and how much memory one process, or a parent and its child, gets.
# $env:MEBIBYTES: how much to commit. $env:CHILD_MEBIBYTES: how much a child is to commit meanwhile.
# $env:QUERY_JOB: what gives a type with the method QueryInformationJobObject.
# Windows PowerShell 5.1. Observes, never compares. Every fact stands alone.

$facts = [ordered]@{}

# What the block finds, or why nobody could look.
function Get-Found([scriptblock] $collect) {
    try { & $collect }
    catch {
        $cause = $_.Exception.GetBaseException()
        [ordered]@{ error = $cause.Message; type = $cause.GetType().FullName }
    }
}

function Fact([string] $name, [scriptblock] $collect) { $facts[$name] = Get-Found $collect }

# A script of its own, made once and while there is memory: a security product that refuses it costs what the job says,
# and nothing else.
$kernel32 = Get-Found { & ([scriptblock]::Create($env:QUERY_JOB)) }

# Ask the job of this process for one class of information; returns the address of the answer.
function Read-Job([int] $class, [int] $size) {
    if ($kernel32 -isnot [type]) { throw $kernel32.error }
    $answer = [Runtime.InteropServices.Marshal]::AllocHGlobal($size)
    if (-not $kernel32::QueryInformationJobObject([IntPtr]::Zero, $class, $answer, $size, [IntPtr]::Zero)) {
        throw 'QueryInformationJobObject failed'
    }
    $answer
}

# JOBOBJECT_EXTENDED_LIMIT_INFORMATION (class 9), 64-bit: 144 bytes, LimitFlags at 16, ProcessMemoryLimit at 112,
# JobMemoryLimit at 120, PeakJobMemoryUsed at 136.
Fact 'memory' {
    $answer = Read-Job 9 144
    [ordered]@{
        limitFlags         = [Runtime.InteropServices.Marshal]::ReadInt32($answer, 16)
        processMemoryLimit = [Runtime.InteropServices.Marshal]::ReadInt64($answer, 112)
        jobMemoryLimit     = [Runtime.InteropServices.Marshal]::ReadInt64($answer, 120)
    }
}

# JOBOBJECT_CPU_RATE_CONTROL_INFORMATION (class 15): 8 bytes, ControlFlags at 0, CpuRate at 4.
Fact 'cpu' {
    $answer = Read-Job 15 8
    [ordered]@{
        controlFlags = [Runtime.InteropServices.Marshal]::ReadInt32($answer, 0)
        cpuRate      = [Runtime.InteropServices.Marshal]::ReadInt32($answer, 4)
    }
}

# What Windows refuses comes as an OutOfMemoryException, and to catch that takes memory too: before each block two are
# asked for and given back, so that at the refusal one is always left to go on with. Who refused is told by the most that
# the job ever had committed: a machine that is at its end refuses long before the job's limit.
$held = New-Object Collections.Generic.List[IntPtr]
Fact 'allocation' {
    if (-not $env:MEBIBYTES) { return $null }
    $outcome = 'complete'
    try {
        while ($held.Count * 16 -lt [int]$env:MEBIBYTES) {
            [Runtime.InteropServices.Marshal]::FreeHGlobal([Runtime.InteropServices.Marshal]::AllocHGlobal(32MB))
            $held.Add([Runtime.InteropServices.Marshal]::AllocHGlobal(16MB))
        }
    }
    catch [OutOfMemoryException] { $outcome = 'refused' }
    [ordered]@{
        mebibytes         = $held.Count * 16
        outcome           = $outcome
        peakJobMemoryUsed = Get-Found { [Runtime.InteropServices.Marshal]::ReadInt64((Read-Job 9 144), 136) }
    }
}

# The child is started just as this process was, and runs this probe; only its environment differs.
Fact 'child' {
    if (-not $env:CHILD_MEBIBYTES) { return $null }
    $env:MEBIBYTES = $env:CHILD_MEBIBYTES
    $env:CHILD_MEBIBYTES = $null
    $start = New-Object Diagnostics.ProcessStartInfo
    $start.FileName = [Diagnostics.Process]::GetCurrentProcess().MainModule.FileName
    $start.Arguments = ([Environment]::GetCommandLineArgs() | Select-Object -Skip 1) -join ' '
    $start.UseShellExecute = $false
    $start.RedirectStandardInput = $true
    $start.RedirectStandardOutput = $true
    $child = [Diagnostics.Process]::Start($start)
    $child.StandardInput.Close()
    $output = $child.StandardOutput.ReadToEnd()
    $child.WaitForExit()
    $found = [regex]::Match($output, '<<<observation (.*) observation>>>')
    if (-not $found.Success) { throw ('the child printed nothing and ended with ' + $child.ExitCode) }
    (ConvertFrom-Json -InputObject $found.Groups[1].Value).allocation
}

foreach ($block in $held) { [Runtime.InteropServices.Marshal]::FreeHGlobal($block) }

# One line, ASCII only: the console's code page must not matter.
$json = ConvertTo-Json -InputObject $facts -Depth 8 -Compress
$json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
[Console]::Out.WriteLine('<<<observation ' + $json + ' observation>>>')
