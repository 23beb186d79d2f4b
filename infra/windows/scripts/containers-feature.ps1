# The feature Containers of Windows. On and off need the machine restarted: the state ends in Pending until then.
Step 'containers-feature' {
    $state = [string] (Get-WindowsOptionalFeature -Online -FeatureName Containers).State
    [ordered]@{ feature = $state -replace 'WithPayloadRemoved', '' }
} {
    param($now)
    $now.feature -eq 'Enabled'
} {
    Enable-WindowsOptionalFeature -Online -FeatureName Containers -NoRestart -WarningAction SilentlyContinue
} {
    if ((Get-WindowsOptionalFeature -Online -FeatureName Containers).State -ne 'DisablePending') {
        Disable-WindowsOptionalFeature -Online -FeatureName Containers -NoRestart -WarningAction SilentlyContinue
    }
}
