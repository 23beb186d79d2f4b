# Travels base64 (UTF-16LE) behind -EncodedCommand. Standard input: the script and its parameters, each its SHA-256, a
# colon and base64, one line each; if they are not whole, nothing is run. Then data, base64, line by line. Windows
# PowerShell hands those lines over as $input. No cmdlet is given one of them: module logging writes down what cmdlets
# are given, and data may be a secret. Trouble is one marked line of ASCII.
$ProgressPreference = 'SilentlyContinue'
$ErrorActionPreference = 'Stop'
try {
    $mode = "$($ExecutionContext.SessionState.LanguageMode)"
    if ($mode -ne 'FullLanguage') {
        "<<<trouble language-mode: $mode trouble>>>"
        exit 1
    }
    else {
        $code = 'script-damaged'
        $texts = @()
        $data = New-Object Collections.Generic.List[string]
        foreach ($line in $input) {
            if (-not $line) { continue }
            if ($texts.Count -eq 2) { $data.Add($line); continue }
            $digest, $text = $line -split ':', 2
            $bytes = [Convert]::FromBase64String($text)
            $found = [Security.Cryptography.SHA256]::Create().ComputeHash($bytes)
            if ([BitConverter]::ToString($found).Replace('-', '') -ne $digest) { throw 'this is not what was sent' }
            $texts += [Text.Encoding]::UTF8.GetString($bytes)
        }
        if ($texts.Count -ne 2) { throw 'this is not all that was sent' }
        $code = 'script-failed'
        $parameters = ConvertFrom-Json -InputObject $texts[1]
        & ([scriptblock]::Create($texts[0])) $parameters.task $parameters.given $data
    }
}
catch {
    if ($code) {
        $said = "${code}: $($_.Exception.GetBaseException().Message) ($($_.FullyQualifiedErrorId))"
        [Console]::Out.WriteLine('<<<trouble ' + ($said -replace '\s+', ' ' -creplace '[^ -~]', '?') + ' trouble>>>')
    }
    exit 1
}
