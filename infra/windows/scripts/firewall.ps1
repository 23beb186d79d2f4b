# Lets the API server reach the kubelet.
$rule = 'hostprocess-conformance-kubelet'

Step 'firewall' {
    [ordered]@{ rule = [bool] (Get-NetFirewallRule -Name $rule -ErrorAction SilentlyContinue) }
} {
    param($now)
    $now.rule
} {
    New-NetFirewallRule -Name $rule -DisplayName $rule -Direction Inbound -Protocol TCP -LocalPort 10250 -Action Allow
} {
    Remove-NetFirewallRule -Name $rule -ErrorAction SilentlyContinue
}
