# Restarts the machine, once however often it is asked: apply leaves a mark that does not live through a restart; apply
# with order restarts as long as the mark is there; check says whether it still is.
Invoke-Alone {
    $path = 'SOFTWARE\hostprocess-conformance-reboot'
    $machine = [Microsoft.Win32.Registry]::LocalMachine
    $changed = $false
    if ($task -eq 'apply' -and -not $given.order) {
        $check = [Microsoft.Win32.RegistryKeyPermissionCheck]::Default
        $machine.CreateSubKey($path, $check, [Microsoft.Win32.RegistryOptions]::Volatile).Close()
        $changed = $true
    }
    $key = $machine.OpenSubKey($path)
    if ($task -eq 'apply' -and $given.order -and $key) {
        shutdown.exe /r /f /t 5
        # 1115 and 1190: it is on its way.
        if ($LASTEXITCODE -and $LASTEXITCODE -ne 1115 -and $LASTEXITCODE -ne 1190) {
            throw "shutdown.exe ended with code $LASTEXITCODE"
        }
        $changed = $true
    }
    [ordered]@{ step = 'reboot'; changed = $changed; pending = [bool] $key }
}
