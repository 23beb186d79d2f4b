# Brings one file below the folder of this program. path: relative; sha256: its digest; url: from where, or null, and
# then lines of data, to be written at offset. Under its name it is whole and as wanted, or not there.
Invoke-Alone {
    $path = [IO.Path]::Combine($root, $given.path)
    $part = $path + '.' + $given.sha256 + '.part'
    $changed = $false
    if ($task -eq 'apply' -and (Get-Digest $path) -ne $given.sha256) {
        [IO.Directory]::CreateDirectory([IO.Path]::GetDirectoryName($path)) | Out-Null
        if ($given.url) {
            $arguments = '--fail', '--silent', '--show-error', '--location', '--retry', '3', '--output', $part, $given.url
            Invoke-Program 'curl.exe' $arguments | Out-Null
        }
        else {
            $file = [IO.File]::OpenWrite($part)
            try {
                # What a run that broke off has written beyond the offset is written again; a gap is never left.
                if ($file.Length -ge $given.offset) {
                    $file.SetLength($given.offset)
                    $file.Position = $given.offset
                    foreach ($line in $data) {
                        $bytes = [Convert]::FromBase64String($line)
                        $file.Write($bytes, 0, $bytes.Length)
                    }
                }
            }
            finally { $file.Close() }
        }
        if ($given.url -or (New-Object IO.FileInfo($part)).Length -eq $given.size) {
            $found = Get-Digest $part
            if ($found -ne $given.sha256) {
                Remove-File $part
                $cause = New-Object Exception("$($given.path) has the SHA-256 digest $found, and $($given.sha256) was wanted")
                $cause.Data['remedy'] = 'nothing was replaced; check where it comes from, and the digest that was given'
                throw $cause
            }
            Remove-File $path
            [IO.File]::Move($part, $path)
        }
        $changed = $true
    }
    $written = 0
    if ([IO.File]::Exists($part)) { $written = (New-Object IO.FileInfo($part)).Length }
    [ordered]@{ step = 'file'; changed = $changed; present = (Get-Digest $path) -eq $given.sha256; written = $written }
}
