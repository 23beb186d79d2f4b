# What the job object of this container limits, and how much memory one process, or a parent and its child, gets.
# $env:MEBIBYTES: how much to commit. $env:CHILD_MEBIBYTES: how much a child is to commit meanwhile.
# Windows PowerShell 5.1. Observes, never compares. Every fact stands alone.

$facts = [ordered]@{}

function Fact([string] $name, [scriptblock] $collect) {
    try { $facts[$name] = & $collect }
    catch {
        $cause = $_.Exception.GetBaseException()
        $facts[$name] = [ordered]@{ error = $cause.Message; type = $cause.GetType().FullName }
    }
}

# A native function without csc.exe, which would need more memory than there is: a dynamic method of kernel32.dll.
function Import-Native([string] $entry, [type] $returns, [type[]] $takes) {
    $assembly = [Reflection.Emit.AssemblyBuilder]::DefineDynamicAssembly(
        (New-Object Reflection.AssemblyName('Native.' + $entry)), [Reflection.Emit.AssemblyBuilderAccess]::Run)
    $type = $assembly.DefineDynamicModule('Native').DefineType('Native', 'Public,Class')
    $method = $type.DefinePInvokeMethod($entry, 'kernel32.dll', 'Public,Static,PinvokeImpl', 'Standard',
        $returns, $takes, 'Winapi', 'Auto')
    $method.SetImplementationFlags('PreserveSig')
    $type.CreateType()
}

# Ask the job of this process for one class of information; returns the address of the answer.
function Read-Job([int] $class, [int] $size) {
    $kernel32 = Import-Native 'QueryInformationJobObject' ([bool]) @([IntPtr], [int], [IntPtr], [int], [IntPtr])
    $answer = [Runtime.InteropServices.Marshal]::AllocHGlobal($size)
    if (-not $kernel32::QueryInformationJobObject([IntPtr]::Zero, $class, $answer, $size, [IntPtr]::Zero)) {
        throw 'QueryInformationJobObject failed'
    }
    $answer
}

# JOBOBJECT_EXTENDED_LIMIT_INFORMATION (class 9), 64-bit: 144 bytes, LimitFlags at 16, ProcessMemoryLimit at 112,
# JobMemoryLimit at 120.
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

# VirtualAlloc says no by a null and throws nothing, which a process that has no memory left could not bear.
# 0x3000: reserve and commit; 4: read and write; 0x8000: release.
Fact 'allocation' {
    if (-not $env:MEBIBYTES) { return $null }
    $allocate = Import-Native 'VirtualAlloc' ([IntPtr]) @([IntPtr], [IntPtr], [int], [int])
    $release = Import-Native 'VirtualFree' ([bool]) @([IntPtr], [IntPtr], [int])
    $wanted = [int]$env:MEBIBYTES
    $size = [IntPtr]16777216
    $blocks = New-Object Collections.Generic.List[IntPtr]
    # The first round is there to have everything compiled: at the limit there is no memory left for that.
    foreach ($goal in 16, $wanted) {
        $blocks.Clear()
        $outcome = 'complete'
        while ($blocks.Count * 16 -lt $goal) {
            $block = $allocate::VirtualAlloc([IntPtr]::Zero, $size, 0x3000, 4)
            if ($block -eq [IntPtr]::Zero) { $outcome = 'refused'; break }
            $blocks.Add($block)
        }
        # Whoever was refused needs room to go on; whoever got all of it holds it for as long as the process lives.
        if ($outcome -eq 'refused' -or $goal -lt $wanted) {
            foreach ($block in $blocks) { [void]$release::VirtualFree($block, [IntPtr]::Zero, 0x8000) }
        }
    }
    [ordered]@{ mebibytes = $blocks.Count * 16; outcome = $outcome }
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

# One line, ASCII only: the console's code page must not matter.
$json = ConvertTo-Json -InputObject $facts -Depth 8 -Compress
$json = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
[Console]::Out.WriteLine('<<<observation ' + $json + ' observation>>>')
