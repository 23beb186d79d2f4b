# make: folders that the node needs. paths: all that it will make, those above first; undo removes what was not there.
Step 'folders' {
    $there = @($given.paths | ForEach-Object { [IO.Directory]::Exists($_) })
    [ordered]@{ paths = @($given.paths); there = $there }
} {
    -not ($given.make | Where-Object { -not [IO.Directory]::Exists($_) })
} {
    foreach ($path in $given.make) { [IO.Directory]::CreateDirectory($path) }
} {
    param($before)
    for ($at = $before.paths.Count - 1; $at -ge 0; $at--) {
        if (-not $before.there[$at]) { Remove-Folder $before.paths[$at] }
    }
}
