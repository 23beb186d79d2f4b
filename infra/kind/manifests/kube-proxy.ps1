# Runs kube-proxy on the host, on the network that flanneld makes.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
$folder = 'C:\ProgramData\hostprocess-conformance\network'
New-Item -ItemType Directory -Force -Path $folder | Out-Null

# "<sha256> <url>". A file that is there with that digest is not fetched again.
$path = "$folder\kube-proxy.exe"
$digest, $url = $env:KUBE_PROXY -split ' ', 2
if (-not ((Test-Path -Path $path) -and (Get-FileHash -Path $path -Algorithm SHA256).Hash -eq $digest)) {
    Invoke-WebRequest -UseBasicParsing -Uri $url -OutFile "$path.part"
    $found = (Get-FileHash -Path "$path.part" -Algorithm SHA256).Hash
    if ($found -ne $digest) { throw "$url has the digest $found, not $digest" }
    Move-Item -Force -Path "$path.part" -Destination $path
}

$account = "$env:CONTAINER_SANDBOX_MOUNT_POINT\var\run\secrets\kubernetes.io\serviceaccount"
$kubeconfig = @{
    apiVersion = 'v1'; kind = 'Config'; 'current-context' = 'c'
    clusters = @(@{ name = 'c'; cluster = @{ server = $env:API_SERVER; 'certificate-authority' = "$account\ca.crt" } })
    users = @(@{ name = 'c'; user = @{ tokenFile = "$account\token" } })
    contexts = @(@{ name = 'c'; context = @{ cluster = 'c'; user = 'c' } })
}
[IO.File]::WriteAllText("$folder\kube-proxy.kubeconfig", (ConvertTo-Json -Depth 9 -InputObject $kubeconfig))

while (-not (Test-Path -Path "$folder\subnet.env")) { Start-Sleep -Seconds 1 }
# An overlay needs one address of the node's subnet as the source of what a service forwards: the last one, which
# host-local gives away last.
$subnet = [regex]::Match([IO.File]::ReadAllText("$folder\subnet.env"), 'FLANNEL_SUBNET=(\d+\.\d+\.\d+)\.').Groups[1].Value
& $path "--hostname-override=$env:NODE_NAME" '--proxy-mode=kernelspace' "--source-vip=$subnet.254" `
    "--kubeconfig=$folder\kube-proxy.kubeconfig"
throw "kube-proxy ended with $LASTEXITCODE"
