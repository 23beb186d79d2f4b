# Runs flanneld on the host. The CNI configuration comes last: the node is Ready when its network is.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
$folder = 'C:\ProgramData\hostprocess-conformance\network'
# Folders of the program alone: where others keep theirs, a file of theirs could win over this one.
$plugins = 'C:\ProgramData\hostprocess-conformance\cni\bin'
$configuration = 'C:\ProgramData\hostprocess-conformance\cni\net.d\10-flannel.conf'
$leases = 'C:\ProgramData\hostprocess-conformance\cni\networks'
New-Item -ItemType Directory -Force -Path $folder, $plugins, (Split-Path -Path $configuration) | Out-Null

# $source is "<sha256> <url>". A file that is there with that digest is not fetched again.
function Get-Verified($source, $path) {
    $digest, $url = $source -split ' ', 2
    if ((Test-Path -Path $path) -and (Get-FileHash -Path $path -Algorithm SHA256).Hash -eq $digest) { return }
    Invoke-WebRequest -UseBasicParsing -Uri $url -OutFile "$path.part"
    $found = (Get-FileHash -Path "$path.part" -Algorithm SHA256).Hash
    if ($found -ne $digest) { throw "$url has the digest $found, not $digest" }
    Move-Item -Force -Path "$path.part" -Destination $path
}

Get-Verified $env:FLANNELD "$folder\flanneld.exe"
Get-Verified $env:CNI_PLUGINS "$folder\cni-plugins.tgz"
Get-Verified $env:WINDOWS_CNI "$folder\windows-cni.zip"
tar.exe -xf "$folder\cni-plugins.tgz" -C $plugins
if ($LASTEXITCODE) { throw "tar.exe ended with $LASTEXITCODE" }
Expand-Archive -Force -Path "$folder\windows-cni.zip" -DestinationPath $plugins

$account = "$env:CONTAINER_SANDBOX_MOUNT_POINT\var\run\secrets\kubernetes.io\serviceaccount"
$kubeconfig = @{
    apiVersion = 'v1'; kind = 'Config'; 'current-context' = 'c'
    clusters = @(@{ name = 'c'; cluster = @{ server = $env:API_SERVER; 'certificate-authority' = "$account\ca.crt" } })
    users = @(@{ name = 'c'; user = @{ tokenFile = "$account\token" } })
    contexts = @(@{ name = 'c'; context = @{ cluster = 'c'; user = 'c' } })
}
[IO.File]::WriteAllText("$folder\flannel.kubeconfig", (ConvertTo-Json -Depth 9 -InputObject $kubeconfig))
$network = @{ Network = $env:POD_NETWORK; Backend = @{ Type = 'vxlan'; VNI = 4096; Port = 4789 } }
[IO.File]::WriteAllText("$folder\net-conf.json", (ConvertTo-Json -Depth 9 -InputObject $network))

# flanneld writes this file once its network is there; kube-proxy waits for it too.
Remove-Item -Force -ErrorAction SilentlyContinue -Path "$folder\subnet.env", $configuration
$flags = @('--kube-subnet-mgr', "--kubeconfig-file=$folder\flannel.kubeconfig", "--iface=$env:HOST_IP",
    "--net-config-path=$folder\net-conf.json", "--subnet-file=$folder\subnet.env")
$flanneld = Start-Process -PassThru -NoNewWindow -FilePath "$folder\flanneld.exe" -ArgumentList $flags
while (-not (Test-Path -Path "$folder\subnet.env")) {
    if ($flanneld.HasExited) { throw 'flanneld ended' }
    Start-Sleep -Seconds 1
}
$subnet = [regex]::Match([IO.File]::ReadAllText("$folder\subnet.env"), 'FLANNEL_SUBNET=(\d+\.\d+\.\d+)\.\d+(/\d+)')
$policies = @(
    @{ Name = 'EndpointPolicy'; Value = @{ Type = 'OutBoundNAT'
        Settings = @{ Exceptions = @($env:SERVICE_NETWORK, $env:POD_NETWORK) } } }
    @{ Name = 'EndpointPolicy'; Value = @{ Type = 'SDNROUTE'
        Settings = @{ DestinationPrefix = $env:SERVICE_NETWORK; NeedEncap = $true } } }
    @{ Name = 'EndpointPolicy'; Value = @{ Type = 'ProviderAddress'; Settings = @{ ProviderAddress = $env:HOST_IP } } }
)
$cni = @{
    cniVersion = '0.2.0'; name = 'flannel.4096'; type = 'sdnoverlay'
    capabilities = @{ portMappings = $true; dns = $true }
    ipam = @{ type = 'host-local'; subnet = $subnet.Groups[1].Value + '.0' + $subnet.Groups[2].Value; dataDir = $leases }
    AdditionalArgs = $policies
}
[IO.File]::WriteAllText($configuration, (ConvertTo-Json -Depth 9 -InputObject $cni))
$flanneld.WaitForExit()
throw 'flanneld ended'
