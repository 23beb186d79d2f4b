# The containerd build under test, in a folder of its own; the service runs it. One that was there before keeps its files
# and its data: only the service is turned round, and back again.
# archive: its file below the folder of this program; sha256: its digest; config: the text of config.toml.
$folder = [IO.Path]::Combine($root, 'containerd')
$bin = [IO.Path]::Combine($folder, 'bin')
$config = [IO.Path]::Combine($folder, 'config.toml')
$program = [IO.Path]::Combine($bin, 'containerd.exe')
$unpacked = [IO.Path]::Combine($folder, 'unpacked')
$command = "`"$program`" --run-service --config `"$config`" --log-file `"$folder\containerd.log`""

# Windows may just have started: a service that starts with it may still be on its way.
function Get-SettledService {
    $service = Get-ServiceState 'containerd'
    while ($service.start -eq 'Auto' -and -not $service.running) {
        $start = (Get-CimInstance -ClassName Win32_OperatingSystem).LastBootUpTime
        if ([DateTime]::Now - $start -gt [TimeSpan]::FromMinutes(3)) { break }
        Start-Sleep -Seconds 2
        $service = Get-ServiceState 'containerd'
    }
    $service
}

# A shim outlives its containerd, by design.
function Stop-Shim {
    Get-Process | Where-Object { $_.Path -and $_.Path.StartsWith($bin) } | Stop-Process -Force -ErrorAction SilentlyContinue
}

Step 'containerd' {
    [ordered]@{
        service    = Get-SettledService
        archive    = if ([IO.File]::Exists($unpacked)) { [IO.File]::ReadAllText($unpacked) } else { $null }
        config     = if ([IO.File]::Exists($config)) { [IO.File]::ReadAllText($config) } else { $null }
        version    = Get-Version $program
        containerd = Get-Digest $program
        shim       = Get-Digest ([IO.Path]::Combine($bin, 'containerd-shim-runhcs-v1.exe'))
    }
} {
    param($now)
    $now.archive -eq $given.sha256 -and $now.config -ceq $given.config -and
        $now.service.command -eq $command -and $now.service.start -eq 'Auto' -and $now.service.running -and
        ($now.service.environment -like "PATH=$bin;*")
} {
    param($now)
    $archive = [IO.Path]::Combine($root, $given.archive)
    if ((Get-Digest $archive) -ne $given.sha256) { throw "$archive is not what it was: nothing was replaced" }
    if (Get-ServiceState 'containerd') { Stop-Service -Name containerd -Force -WarningAction SilentlyContinue }
    Stop-Shim
    Remove-File $unpacked
    Remove-Folder $bin
    [IO.Directory]::CreateDirectory($bin)
    # Releases have everything below bin.
    Invoke-Program 'tar.exe' @('-xf', $archive, '-C', $folder)
    if (-not [IO.File]::Exists($program)) { throw "there is no bin/containerd.exe in $archive" }
    [IO.File]::WriteAllText($config, $given.config)
    [IO.File]::WriteAllText($unpacked, $given.sha256)
    # containerd takes the shim that PATH leads to, and the one beside itself only where there is none.
    $environment = @($now.service.environment | Where-Object { $_ -and $_ -notlike 'PATH=*' })
    $environment += "PATH=$bin;" + [Environment]::GetEnvironmentVariable('Path', 'Machine')
    Set-ServiceState 'containerd' @{ command = $command; start = 'Auto'; running = $true; environment = $environment }
} {
    param($before)
    $ctr = [IO.Path]::Combine($bin, 'ctr.exe')
    $service = Get-ServiceState 'containerd'
    if ($service.command -eq $command -and $service.running) {
        # Layers of images cannot all be deleted as files: containerd takes away what it has unpacked, if it can.
        try {
            foreach ($image in (Invoke-Program $ctr @('-n', 'k8s.io', 'images', 'ls', '-q')) -split "`n") {
                if ($image) { Invoke-Program $ctr @('-n', 'k8s.io', 'images', 'rm', '--sync', $image) }
            }
        }
        catch { }
    }
    if ($service) { Stop-Service -Name containerd -Force -WarningAction SilentlyContinue }
    Stop-Shim
    Set-ServiceState 'containerd' $before.service
    Remove-Folder $folder
}
