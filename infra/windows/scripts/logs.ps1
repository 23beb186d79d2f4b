# The last errors in the logs of the kubelet and of containerd. Changes nothing.
function Get-LastError([string] $name) {
    $path = [IO.Path]::Combine($root, $name)
    if (-not [IO.File]::Exists($path)) { return }
    $file = New-Object IO.FileStream($path, [IO.FileMode]::Open, [IO.FileAccess]::Read, [IO.FileShare]'ReadWrite, Delete')
    try {
        if ($file.Length -gt 65536) { $file.Position = $file.Length - 65536 }
        $text = (New-Object IO.StreamReader($file)).ReadToEnd()
    }
    finally { $file.Close() }
    $text -split '\r?\n' | Where-Object { $_ -match '^[EF]\d{4} |level=(error|fatal)' } | Select-Object -Last 2
}

Invoke-Alone {
    [ordered]@{ kubelet = @(Get-LastError 'kubelet.log'); containerd = @(Get-LastError 'containerd\containerd.log') }
}
