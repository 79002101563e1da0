"""What people hold and no engine wrote: tables, arrays and matrices that say little."""
