# The folder of this program and the journal in it. apply makes them; undo takes them away once the journal is empty.
# An entry is {step, before}: before is what undo of the step is given.
Invoke-Alone {
    if ([IO.Directory]::Exists($root)) {
        # Every user may make a folder here, and undo does what the journal says.
        $owner = [IO.Directory]::GetAccessControl($root).GetOwner([Security.Principal.SecurityIdentifier]).Value
        if ($owner -ne 'S-1-5-18' -and $owner -ne 'S-1-5-32-544') {
            $cause = New-Object Exception("the folder $root belongs to $owner, and not to SYSTEM or the administrators")
            $cause.Data['remedy'] = 'somebody else has put it there: look into it, and remove it'
            throw $cause
        }
    }
    $entries = @(Read-Journal)
    $changed = $false
    if ($task -eq 'apply' -and -not [IO.File]::Exists($journal)) {
        # Configuration and a token for minutes lie in here: for SYSTEM and administrators alone.
        [IO.Directory]::CreateDirectory($root) | Out-Null
        Invoke-Program 'icacls.exe' @($root, '/setowner', '*S-1-5-32-544', '/q') | Out-Null
        Invoke-Program 'icacls.exe' @($root, '/inheritance:r', '/grant:r', '*S-1-5-18:(OI)(CI)F', '*S-1-5-32-544:(OI)(CI)F', '/q') | Out-Null
        Write-Journal @()
        $changed = $true
    }
    if ($task -eq 'undo' -and [IO.Directory]::Exists($root)) {
        if ($entries) { throw 'the journal still has steps to undo' }
        # The journal goes last but for the folder itself.
        foreach ($folder in [IO.Directory]::GetDirectories($root)) { Remove-Folder $folder }
        foreach ($file in [IO.Directory]::GetFiles($root)) { if ($file -ne $journal) { Remove-File $file } }
        Remove-File $journal
        Remove-Folder $root
        $changed = $true
    }
    [ordered]@{
        step    = 'journal'
        changed = $changed
        exists  = [IO.Directory]::Exists($root)
        entries = $entries
    }
}
