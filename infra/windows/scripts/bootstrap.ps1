# Travels base64 (UTF-16LE) behind -EncodedCommand. Standard input: the script and its parameters, gzip + base64, one
# line each, then data, base64, line by line. Windows PowerShell hands those lines over as $input.
$ProgressPreference = 'SilentlyContinue'
$lines = @($input | Where-Object { $_ })
$texts = foreach ($line in $lines[0..1]) {
    $bytes = New-Object IO.MemoryStream(, [Convert]::FromBase64String($line))
    $gzip = New-Object IO.Compression.GzipStream($bytes, [IO.Compression.CompressionMode]::Decompress)
    (New-Object IO.StreamReader($gzip, [Text.Encoding]::UTF8)).ReadToEnd()
}
$parameters = ConvertFrom-Json -InputObject $texts[1]
$data = @($lines | Select-Object -Skip 2)
& ([scriptblock]::Create($texts[0])) $parameters.task $parameters.given $data
